size, count = map(int, input().split())
cache = {}
for _ in range(count):
    what, key, *value = input().split()
    if what == 'put':
        cache[key] = value[0]
        if len(cache) > size:
            del cache[next(iter(cache))]
    else:
        print(cache.get(key, -1))
