const [head, ...lines] = require('fs').readFileSync(0, 'utf8').trim().split('\n');
const size = Number(head.split(' ')[0]);
const cache = new Map();
const answers = [];
for (const line of lines) {
  const [what, key, given] = line.split(' ');
  const value = what === 'put' ? given : cache.get(key);
  if (what === 'get') answers.push(value === undefined ? '-1' : value);
  if (value === undefined) continue;
  cache.delete(key);
  cache.set(key, value);
  if (cache.size > size) cache.delete(cache.keys().next().value);
}
console.log(answers.join('\n'));
