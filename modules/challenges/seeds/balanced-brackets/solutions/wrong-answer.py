line = input()
print('balanced' if all(line.count(a) == line.count(b) for a, b in ('()', '[]', '{}')) else 1)
