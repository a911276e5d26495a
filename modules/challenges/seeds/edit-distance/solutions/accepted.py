one, other = input(), input()
before = list(range(len(other) + 1))
for number, letter in enumerate(one, start=1):
    row = [number]
    for place, there in enumerate(other):
        row.append(min(before[place + 1] + 1, row[place] + 1, before[place] + (letter != there)))
    before = row
print(before[-1])
