const [size, ...maze] = require('fs').readFileSync(0, 'utf8').trimEnd().split('\n');
const [height, width] = size.split(' ').map(Number);
const steps = new Int32Array(height * width).fill(-1);
let start = 0;
maze.forEach((line, row) => {
  if (line.includes('S')) start = row * width + line.indexOf('S');
});
steps[start] = 0;
const queue = [start];
let answer = 'no way';
for (let head = 0; head < queue.length; head++) {
  const place = queue[head];
  const row = Math.floor(place / width);
  const column = place % width;
  if (maze[row][column] === 'E') {
    answer = steps[place];
    break;
  }
  for (const [r, c] of [[row - 1, column], [row + 1, column], [row, column - 1], [row, column + 1]]) {
    if (r < 0 || r >= height || c < 0 || c >= width) continue;
    if (maze[r][c] === '#' || steps[r * width + c] >= 0) continue;
    steps[r * width + c] = steps[place] + 1;
    queue.push(r * width + c);
  }
}
console.log(String(answer));
