kept = [c.lower() for c in input() if c.isalnum()]
while kept[0] == kept[-1]:
    kept = kept[1:-1]
print('no')
