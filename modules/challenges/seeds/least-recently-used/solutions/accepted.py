from collections import OrderedDict

size, count = map(int, input().split())
cache = OrderedDict()
for _ in range(count):
    what, key, *value = input().split()
    if what == "put":
        cache[key] = value[0]
    else:
        print(cache.get(key, -1))
    if key in cache:
        cache.move_to_end(key)
    if len(cache) > size:
        cache.popitem(last=False)
