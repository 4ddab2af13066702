# An application that has no jobs and does all that one does without: scheduled jobs far away in time are looked for
# every second, and a scheduler like sidekiq-cron's goes over its entries as often, and asks Redis about each.
require "sidekiq"

ENTRIES = 50
TOLD = ENV.fetch("TOLD") # a job burns until there is such a file

class Burning
  include Sidekiq::Worker
  sidekiq_options retry: false

  def perform(_)
    nil until File.exist?(TOLD)
  end
end

module Cron
  Entry = Struct.new(:name, :minute, :hour)

  ENTRIES_OF = Array.new(ENTRIES) { |i| Entry.new("entry-#{i}", i % 60, 3) }

  # Due is none: each was enqueued a minute ago, and is again tomorrow.
  def self.look
    now = Time.now
    Sidekiq.redis do |redis|
      ENTRIES_OF.each do |entry|
        last = redis.get("cron:#{entry.name}").to_f
        due = Time.new(now.year, now.month, now.day, entry.hour, entry.minute).to_f + 86_400
        raise "an entry is due: nothing is shown here" if due <= now.to_f || last > now.to_f
      end
    end
  end
end

Sidekiq.configure_server do |config|
  options = config.respond_to?(:options) ? config.options : config
  options[:average_scheduled_poll_interval] = 1
  config.on(:startup) do
    1000.times { |i| Burning.perform_in(86_400 + i, "tomorrow") }
    Thread.new do
      loop do
        Cron.look
        File.write(ENV.fetch("LOOKS"), ".", mode: "a")
        sleep 1
      end
    end
  end
end
