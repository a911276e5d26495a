numeral = input().strip()
number = 0
while True:
    number += 1
    if len(numeral) == number and number > 20:
        break
print(number)
