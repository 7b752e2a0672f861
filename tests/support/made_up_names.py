"""A user who makes names up as fast as 64 threads can, in a process of its own."""

ATTACK = """
import os, random, sys, threading
os.setgid(1000); os.setuid(1000)
def look_up():
    while True:
        try:
            os.stat(f"{sys.argv[1]}/x{random.getrandbits(256):064x}")
        except OSError:
            pass
for _ in range(64):
    threading.Thread(target=look_up, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""
