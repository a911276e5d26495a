// The languages: their names, a first program each, and what a solution begins with.

const LANGUAGES = {
  python: {
    name: "Python",
    sample: `import sys
import time

name = sys.stdin.readline().strip() or "world"
print(f"Hello, {name}!")

for count in range(3, 0, -1):
    print(count, end=" … ", flush=True)
    time.sleep(0.3)
print("\\x1b[1;32mlift-off\\x1b[0m")
`,
    start: `import sys

data = sys.stdin.read().split()

`,
  },
  javascript: {
    name: "JavaScript",
    sample: `const lines = require("fs").readFileSync(0, "utf8").split("\\n");
const name = lines[0].trim() || "world";
console.log(\`Hello, \${name}!\`);

const squares = Array.from({ length: 5 }, (_, n) => n * n);
console.log("squares:", squares.join(" "));
`,
    start: `const data = require("fs").readFileSync(0, "utf8").split(/\\s+/);

`,
  },
  typescript: {
    name: "TypeScript",
    sample: `import { readFileSync } from "fs";

const lines: string[] = readFileSync(0, "utf8").split("\\n");
const name: string = lines[0].trim() || "world";
console.log(\`Hello, \${name}!\`);
`,
    start: `import { readFileSync } from "fs";

const data: string[] = readFileSync(0, "utf8").split(/\\s+/);

`,
  },
  bash: {
    name: "Bash",
    sample: `read -r name
echo "Hello, \${name:-world}!"

for count in 3 2 1; do
    printf '%s … ' "$count"
    sleep 0.3
done
printf '\\e[1;32mlift-off\\e[0m\\n'
`,
    start: `read -r line

`,
  },
  ruby: {
    name: "Ruby",
    sample: `name = ($stdin.gets || "").strip
name = "world" if name.empty?
puts "Hello, #{name}!"

3.downto(1) do |count|
  print count, " … "
  $stdout.flush
  sleep 0.3
end
puts "\\e[1;32mlift-off\\e[0m"
`,
    start: `data = $stdin.read.split

`,
  },
  c: {
    name: "C",
    sample: `#include <stdio.h>
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
    start: `#include <stdio.h>

int main(void) {
    
    return 0;
}
`,
  },
  cpp: {
    name: "C++",
    sample: `#include <iostream>
#include <string>

int main() {
    std::string name;
    std::getline(std::cin, name);
    std::cout << "Hello, " << (name.empty() ? "world" : name) << "!\\n";
}
`,
    start: `#include <iostream>

int main() {
    
}
`,
  },
  rust: {
    name: "Rust",
    sample: `use std::io;

fn main() {
    let mut name = String::new();
    io::stdin().read_line(&mut name).unwrap();
    let name = name.trim();
    println!("Hello, {}!", if name.is_empty() { "world" } else { name });
}
`,
    start: `use std::io::{self, Read};

fn main() {
    let mut data = String::new();
    io::stdin().read_to_string(&mut data).unwrap();
    
}
`,
  },
  go: {
    name: "Go",
    sample: `package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

func main() {
	name, _ := bufio.NewReader(os.Stdin).ReadString('\\n')
	name = strings.TrimSpace(name)
	if name == "" {
		name = "world"
	}
	fmt.Printf("Hello, %s!\\n", name)
}
`,
    start: `package main

import "fmt"

func main() {
	var n int
	fmt.Scan(&n)
	fmt.Println(n)
}
`,
  },
  java: {
    name: "Java",
    sample: `import java.util.Scanner;

public class Main {
    public static void main(String[] arguments) {
        Scanner input = new Scanner(System.in);
        String name = input.hasNextLine() ? input.nextLine().trim() : "";
        System.out.println("Hello, " + (name.isEmpty() ? "world" : name) + "!");
    }
}
`,
    start: `import java.util.Scanner;

public class Main {
    public static void main(String[] arguments) {
        Scanner input = new Scanner(System.in);
        
    }
}
`,
  },
};

const told = (id) => LANGUAGES[id] ?? { name: id, sample: "", start: "" };

/** The ids of all languages that have a name here. */
export const everyLanguage = () => Object.keys(LANGUAGES);

/** The name of a language for people. */
export const languageName = (id) => told(id).name;

/** A program to begin with in the playground. */
export const sample = (id) => told(id).sample;

/** What a solution begins with. */
export const start = (id) => told(id).start;
