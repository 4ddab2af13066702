# The application of the bench: jobs that burn or wait for so many seconds, and say when they began and ended.
#
# JOURNAL gets one line for each of these, with the time of the clock that the bench reads, too. With LIVE, titles are
# live, by contrib/sidekiq_live_title.rb.
require "sidekiq"
require File.expand_path("../../contrib/sidekiq_live_title", __dir__) if ENV["LIVE"]

class Timed
  include Sidekiq::Worker
  sidekiq_options retry: false

  def perform(kind, seconds)
    began = note("began")
    if kind == "burns"
      nil while now - began < seconds
    else
      sleep(seconds)
    end
    note("ended")
  end

  private

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end

  def note(what)
    at = now
    File.write(ENV.fetch("JOURNAL"), "#{what} #{at}\n", mode: "a")
    at
  end
end
