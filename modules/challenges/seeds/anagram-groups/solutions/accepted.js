const [, ...words] = require('fs').readFileSync(0, 'utf8').trim().split('\n');
const groups = new Map();
for (const word of words) {
  const key = [...word].sort().join('');
  groups.set(key, [...(groups.get(key) || []), word]);
}
console.log([...groups.values()].map((group) => group.sort().join(' ')).sort().join('\n'));
