n, wanted = map(int, input().split())
numbers = list(map(int, input().split()))
places = {number: place for place, number in enumerate(numbers, start=1)}
for place, number in enumerate(numbers, start=1):
    if wanted - number in places:
        print(place, places[wanted - number])
        break
else:
    print('none')
