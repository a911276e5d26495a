line = input().lower()
print('yes' if line == line[::-1] else 'no')
