const values = { I: 1, V: 5, X: 10, L: 50, C: 100, D: 500, M: 1000 };
const digits = [...require('fs').readFileSync(0, 'utf8').trim()].map((letter) => values[letter]);
console.log(digits.reduce((sum, value, i) => sum + (value < (digits[i + 1] || 0) ? -value : value), 0));
