height, width = map(int, input().split())
maze = [input() for _ in range(height)]
print(height + width - 2 if any('.' in line for line in maze) else 'no way')
