const [size, count, ...fields] = require('fs').readFileSync(0, 'utf8').trim().split(/\s+/).map(Number);
const closed = new Array(size).fill(0);
for (let i = 0; i < count; i++) closed[fields[2 * i] - 1] |= 1 << (fields[2 * i + 1] - 1);
const everywhere = (1 << size) - 1;
function ways(row, columns, falling, rising) {
  if (row === size) return 1;
  let total = 0;
  let free = everywhere & ~(columns | falling | rising | closed[row]);
  while (free) {
    const field = free & -free;
    free ^= field;
    total += ways(row + 1, columns | field, (falling | field) << 1, (rising | field) >> 1);
  }
  return total;
}
console.log(ways(0, 0, 0, 0));
