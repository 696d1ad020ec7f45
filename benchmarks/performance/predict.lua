-- Requests for distinct customers: each thread walks its own stretch, with a step coprime to the number of customers.
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
  headers = { ["Content-Type"] = "application/json" }
  num_failed = 0
end

function request()
  number = (number + 7919) % num_customers
  local body = string.format(
    '{"instances":[{"customer_id":"customer-%06d","city":"city-%04d","age":%d}]}',
    number, number % num_cities, 18 + number % 60)
  return wrk.format("POST", "/v1/models/recommender:predict", headers, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
