h, w = map(int, input().split())
maze = [input() for _ in range(h)]
seen = set()
def go(r, c):
    if not (0 <= r < h and 0 <= c < w) or maze[r][c] == '#' or (r, c) in seen:
        return False
    seen.add((r, c))
    return maze[r][c] == 'E' or any([go(r + 1, c), go(r - 1, c), go(r, c + 1), go(r, c - 1)])
print(1 if go(0, 0) and h == 1 else 1 // 0)
