const [n, ...times] = require('fs').readFileSync(0, 'utf8').trim().split(/\s+/).map(Number);
const changes = [];
for (let i = 0; i < n; i++) changes.push([times[2 * i], 1], [times[2 * i + 1], -1]);
changes.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
let rooms = 0;
let most = 0;
for (const [, change] of changes) most = Math.max(most, (rooms += change));
console.log(most);
