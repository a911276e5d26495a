const [one = '', other = ''] = require('fs').readFileSync(0, 'utf8').split('\n');
let before = Array.from({ length: other.length + 1 }, (_, i) => i);
for (let i = 1; i <= one.length; i++) {
  const row = [i];
  for (let j = 1; j <= other.length; j++) {
    row.push(Math.min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1)));
  }
  before = row;
}
console.log(before[other.length]);
