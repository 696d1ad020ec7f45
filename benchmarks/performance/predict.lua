-- Requests for distinct customers: each thread walks its own stretch, with a step coprime to the number of customers.
-- With a number of categories they also ask for products of one category, less 200 of the catalog's.
local counter = 0

function setup(thread)
  counter = counter + 1
  thread:set("id", counter)
end

function init(args)
  num_customers = tonumber(args[1])
  num_cities = tonumber(args[2])
  local num_threads = tonumber(args[3])
  number = math.floor(num_customers / num_threads) * (id - 1) + tonumber(args[4])
  num_categories = tonumber(args[5] or "0")
  headers = { ["Content-Type"] = "application/json" }
  limits = {}
  if num_categories > 0 then make_limits(tonumber(args[6]), tonumber(args[7])) end
end

-- Lists of excluded products lie ready, so that the client's own work stays small.
function make_limits(num_items, num_excluded)
  math.randomseed(number)
  for list = 1, 211 do
    local ids = {}
    for place = 1, num_excluded do
      ids[place] = string.format('"product-%06d"', math.random(0, num_items - 1))
    end
    limits[list] = table.concat(ids, ",")
  end
end

function request()
  number = (number + 7919) % num_customers
  local limit = ""
  if num_categories > 0 then
    limit = string.format(
      ',"filter":{"category":"category-%02d"},"exclude":[%s]', number % num_categories, limits[number % #limits + 1])
  end
  local body = string.format(
    '{"instances":[{"customer_id":"customer-%06d","city":"city-%04d","age":%d%s}]}',
    number, number % num_cities, 18 + number % 60, limit)
  return wrk.format("POST", "/v1/models/recommender:predict", headers, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
