const [amount, , ...values] = require('fs').readFileSync(0, 'utf8').trim().split(/\s+/).map(Number);
const ways = new Array(amount + 1).fill(0);
ways[0] = 1;
for (const value of values) {
  for (let total = value; total <= amount; total++) ways[total] = (ways[total] + ways[total - value]) % 1000000007;
}
console.log(ways[amount]);
