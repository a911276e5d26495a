const limit = Number(require('fs').readFileSync(0, 'utf8'));
const composite = new Uint8Array(limit + 1);
let count = 0;
for (let n = 2; n <= limit; n++) {
  if (composite[n]) continue;
  count++;
  for (let m = n * n; m <= limit; m += n) composite[m] = 1;
}
console.log(count);
