const pairs = { ')': '(', ']': '[', '}': '{' };
const line = require('fs').readFileSync(0, 'utf8').split('\n')[0];
const opened = [];
let answer = null;
for (let i = 0; i < line.length && answer === null; i++) {
  if ('([{'.includes(line[i])) opened.push([line[i], i + 1]);
  else if (line[i] in pairs && (opened.length === 0 || opened.pop()[0] !== pairs[line[i]])) answer = i + 1;
}
if (answer === null) answer = opened.length ? opened[opened.length - 1][1] : 'balanced';
console.log(String(answer));
