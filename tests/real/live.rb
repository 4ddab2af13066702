# The application of the tests of live titles: any Sidekiq from 6.0 on, with contrib/sidekiq_live_title.rb.
#
# Everything is told through lists in Redis, by a connection of its own, so that no version's client matters:
#   beat:NAME      one token lets the heartbeat beat once more; it beats by itself only once, at the start
#   release:NAME   one token ends one job
#   linger:NAME    with LINGER, one token ends what Sidekiq does after a job while that job counts for it
#   exit:NAME      with STAY, one token lets the process end
#   said:NAME      receives what jobs say
require "sidekiq"
require "socket"

NAME = ENV.fetch("NAME")

module Told
  # The first line of Redis's answer, however long that takes.
  def self.ask(*words)
    UNIXSocket.open(ENV.fetch("REDIS_URL").delete_prefix("unix://")) do |redis|
      redis.write("*#{words.size}\r\n", *words.map { |word| "$#{word.bytesize}\r\n#{word}\r\n" })
      redis.gets
    end
  end

  def self.take(list)
    ask("BLPOP", "#{list}:#{NAME}", "0")
  end

  def self.say(words)
    ask("RPUSH", "said:#{NAME}", words)
  end
end

class Sidekiq::Launcher
  private def sleep(_)
    Told.take("beat")
  end
end

# What Sidekiq itself counts, and that its heartbeat has beaten.
if ENV["SHOW_BEATS"]
  beats = 0
  at_work = Sidekiq::Processor.const_get(Sidekiq::Processor.const_defined?(:WORK_STATE) ? :WORK_STATE : :WORKER_STATE)
  Sidekiq::Launcher::PROCTITLES << proc { "beat #{beats += 1}: #{at_work.size}" }
end

Sidekiq.configure_server do |config|
  options = config.respond_to?(:options) ? config.options : config
  if ENV["LINGER"]
    options[:reloader] = proc do |&block|
      block.call
    ensure
      Told.take("linger")
    end
  end
  if ENV["CAPSULE"]
    config.capsule("single") do |capsule|
      capsule.concurrency = 1
      capsule.queues = ["#{NAME}-single"]
      capsule.server_middleware # a chain of its own from now on
    end
  end
  if ENV["NO_TITLES"]
    config.on(:startup) do
      Process.define_singleton_method(:setproctitle) { |_| raise NotImplementedError.new("no titles here"), cause: nil }
    end
  end
end

at_exit { Told.take("exit") } if ENV["STAY"]

require File.expand_path("../../contrib/sidekiq_live_title", __dir__)

# As a Timeout would, wherever Ruby may let it strike in what is tried here: where something returns.
if ENV["STRIKES"]
  tried = $LOADED_FEATURES.grep(/sidekiq_live_title/).first
  strike = TracePoint.new(:return, :b_return, :c_return) do |at|
    if at.path == tried && rand < 0.1 && Thread.current.name&.include?("processor")
      Thread.current.raise("struck while #{at.method_id}")
    end
  end
  strike.enable
end

class Job
  include Sidekiq::Worker
  sidekiq_options retry: false

  def title
    File.binread("/proc/self/cmdline").split("\0").first
  end
end

class Holding < Job
  def perform(_)
    Told.take("release")
    Told.say("done")
  end
end

class Quick < Job
  def perform(_)
    Told.say("done")
  end
end

class Raising < Job
  def perform(_)
    Told.take("release")
    raise "as it was told"
  end
end

# Performs another job within itself, in the same thread.
class Nesting < Job
  def perform(queue)
    chain = Sidekiq::VERSION < "7" ? Sidekiq.server_middleware : Sidekiq.default_configuration.server_middleware
    chain.invoke(self, {}, queue) { Told.say(title) }
    Told.say(title)
    Told.take("release")
  end
end

# Its child performs a job as its parent did, another in a thread of its own, and takes a title.
class Forking < Job
  def perform(queue)
    child = fork do
      chain = Sidekiq::VERSION < "7" ? Sidekiq.server_middleware : Sidekiq.default_configuration.server_middleware
      chain.invoke(self, {}, queue) { nil }
      Thread.new { chain.invoke(self, {}, queue) { Told.say(title) } }.join
      Told.say(title)
      $0 = "a child's own title"
      Told.say(title)
      exit! # no at_exit handlers: they belong to the parent
    end
    Process.wait(child)
    Told.take("release")
  end
end
