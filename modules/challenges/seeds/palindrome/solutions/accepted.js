const line = require('fs').readFileSync(0, 'utf8').split('\n')[0].toLowerCase().replace(/[^a-z0-9]/g, '');
console.log(line === [...line].reverse().join('') ? 'yes' : 'no');
