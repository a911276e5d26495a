changes = []
for _ in range(int(input())):
    begins, ends = map(int, input().split())
    changes += [(begins, 0, 1), (ends, 1, -1)]
rooms = most = 0
for _, _, change in sorted(changes):
    rooms += change
    most = max(most, rooms)
print(most)
