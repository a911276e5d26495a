const n = Number(require('fs').readFileSync(0, 'utf8'));
const lines = [];
for (let i = 1; i <= n; i++) lines.push((i % 3 ? '' : 'Fizz') + (i % 5 ? '' : 'Buzz') || i);
console.log(lines.join('\n'));
