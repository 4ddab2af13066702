# The web application of the bench: each request takes as many seconds of a core as its x-demand says.
#
# A worker has one thread. What Puma itself took since the last answer (to accept, to read, to be woken for nothing) is
# part of the demand, up to half of it.
require_relative "pace"

last = nil

run lambda { |env|
  demand = Float(env.fetch("HTTP_X_DEMAND"))
  taken_s = last ? Pace.cpu - last : 0
  Pace.burn(demand, [taken_s, demand * Pace::CORE / 2].min)
  last = Pace.cpu
  [200, {"content-length" => "0"}, []]
}
