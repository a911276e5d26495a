h, w = map(int, input().split())
maze = [input() for _ in range(h)]
best = [10**9]
path = [((0, 0), frozenset([(0, 0)]))]
while path:
    (r, c), seen = path.pop()
    if maze[r][c] == 'E':
        best[0] = min(best[0], len(seen) - 1)
        continue
    for x, y in ((r+1, c), (r-1, c), (r, c+1), (r, c-1)):
        if 0 <= x < h and 0 <= y < w and maze[x][y] != '#' and (x, y) not in seen:
            path.append(((x, y), seen | {(x, y)}))
print(best[0] if best[0] < 10**9 else 'no way')
