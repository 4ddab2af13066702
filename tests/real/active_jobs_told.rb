# See active_jobs.rb.
require_relative "active_jobs"

Told.say("ready")
$stdin.each_line(chomp: true) { |line| obey(*line.split(" ", 2)) }
