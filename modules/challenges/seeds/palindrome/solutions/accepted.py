kept = [letter.lower() for letter in input() if letter.isalnum()]
print('yes' if kept == kept[::-1] else 'no')
