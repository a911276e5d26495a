line = input()
held = []
while True:
    held.append(bytearray(1024 * 1024))
