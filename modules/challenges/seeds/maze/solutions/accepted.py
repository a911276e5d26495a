from collections import deque

height, width = map(int, input().split())
maze = [input() for _ in range(height)]
start = next((row, line.index("S")) for row, line in enumerate(maze) if "S" in line)
steps = {start: 0}
queue = deque([start])
answer = "no way"
while queue:
    row, column = place = queue.popleft()
    if maze[row][column] == "E":
        answer = steps[place]
        break
    for there in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if 0 <= there[0] < height and 0 <= there[1] < width and there not in steps and maze[there[0]][there[1]] != "#":
            steps[there] = steps[place] + 1
            queue.append(there)
print(answer)
