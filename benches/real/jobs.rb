# The jobs of the bench: each takes so many seconds of a core, unless it is told to stop.
#
# JOURNAL gets one line for each begin and end, with the time of the clock that the bench reads, too, and PROGRESS has the
# seconds of a core that this worker's jobs have had so far. Titles are live, by contrib/sidekiq_live_title.rb.
require "sidekiq"
require_relative "pace"
require File.expand_path("../../contrib/sidekiq_live_title", __dir__)

class Burning
  include Sidekiq::Worker
  sidekiq_options retry: false

  PROGRESS = File.open(ENV.fetch("PROGRESS"), "r+")

  class << self
    attr_accessor :before
  end
  self.before = 0

  def perform(core_seconds, stop)
    note("began")
    all = self.class.before
    Pace.burn(core_seconds) do |done|
      all = self.class.before + done
      PROGRESS.pwrite(format("%016.6f", all), 0) # in place and of one width: a reader sees the old number or the new one
      File.exist?(stop)
    end
    self.class.before = all
    note("ended")
  end

  private

  def note(what)
    File.write(ENV.fetch("JOURNAL"), "#{what} #{Pace.now}\n", mode: "a")
  end
end
