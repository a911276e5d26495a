pairs = {')': '(', ']': '[', '}': '{'}
opened = []
for place, letter in enumerate(input(), start=1):
    if letter in '([{':
        opened.append((letter, place))
    elif letter in pairs and opened.pop()[0] != pairs[letter]:
        print(place)
        break
else:
    print(opened[-1][1] if opened else 'balanced')
