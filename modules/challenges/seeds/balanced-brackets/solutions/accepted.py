PAIRS = {")": "(", "]": "[", "}": "{"}
line = input()
opened = []
for place, letter in enumerate(line, start=1):
    if letter in "([{":
        opened.append((letter, place))
    elif letter in PAIRS:
        if not opened or opened.pop()[0] != PAIRS[letter]:
            print(place)
            break
else:
    print(opened[-1][1] if opened else "balanced")
