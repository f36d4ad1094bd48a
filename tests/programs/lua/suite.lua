-- Strings, tables, coroutines, files.
local words = {}
for word in ("the quick brown fox"):gmatch("%a+") do words[#words + 1] = word end
assert(#words == 4)
local make = coroutine.wrap(function() for n = 1, 1000 do coroutine.yield(n) end end)
local sum = 0
for n in make do sum = sum + n end
assert(sum == 500500)
local name = os.tmpname()
local file = assert(io.open(name, "w"))
file:write(("x"):rep(100000))
file:close()
assert(#io.open(name):read("a") == 100000)
os.remove(name)
print("SUCCESS")
