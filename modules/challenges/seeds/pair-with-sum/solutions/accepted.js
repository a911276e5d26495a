const numbers = require('fs').readFileSync(0, 'utf8').split(/\s+/).map(Number);
const [n, wanted] = numbers;
const last = new Map();
let answer = 'none';
for (let place = 1; place <= n; place++) {
  const number = numbers[place + 1];
  if (last.has(wanted - number)) {
    answer = `${last.get(wanted - number)} ${place}`;
    break;
  }
  last.set(number, place);
}
console.log(answer);
