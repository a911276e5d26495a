line = ''.join(c for c in input() if c in '()[]{}')
while line:
    shorter = line.replace('()', '', 1).replace('[]', '', 1).replace('{}', '', 1)
    if shorter != line:
        line = shorter
print('balanced')
