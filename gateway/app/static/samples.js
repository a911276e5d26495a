// The languages: their names, and a first program each.

const SAMPLES = {
  python: [
    "Python",
    `import sys
import time

name = sys.stdin.readline().strip() or "world"
print(f"Hello, {name}!")

for count in range(3, 0, -1):
    print(count, end=" … ", flush=True)
    time.sleep(0.3)
print("\\x1b[1;32mlift-off\\x1b[0m")
`,
  ],
  javascript: [
    "JavaScript",
    `const lines = require("fs").readFileSync(0, "utf8").split("\\n");
const name = lines[0].trim() || "world";
console.log(\`Hello, \${name}!\`);

const squares = Array.from({ length: 5 }, (_, n) => n * n);
console.log("squares:", squares.join(" "));
`,
  ],
  bash: [
    "Bash",
    `read -r name
echo "Hello, \${name:-world}!"

for count in 3 2 1; do
    printf '%s … ' "$count"
    sleep 0.3
done
printf '\\e[1;32mlift-off\\e[0m\\n'
`,
  ],
  c: [
    "C",
    `#include <stdio.h>
#include <string.h>

int main(void) {
    char name[100] = "";
    if (fgets(name, sizeof name, stdin) != NULL) {
        name[strcspn(name, "\\n")] = '\\0';
    }
    printf("Hello, %s!\\n", name[0] != '\\0' ? name : "world");
    return 0;
}
`,
  ],
};

const STARTS = {
  python: "import sys\n\ndata = sys.stdin.read().split()\n\n",
  javascript: 'const data = require("fs").readFileSync(0, "utf8").split(/\\s+/);\n\n',
  bash: "read -r line\n\n",
  c: "#include <stdio.h>\n\nint main(void) {\n    \n    return 0;\n}\n",
};

/** The name of a language for people. */
export const languageName = (id) => SAMPLES[id]?.[0] ?? id;

/** A program to begin with in the playground. */
export const sample = (id) => SAMPLES[id]?.[1] ?? "";

/** What a solution begins with: it reads its input. */
export const start = (id) => STARTS[id] ?? "";
