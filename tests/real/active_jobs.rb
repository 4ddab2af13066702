# What performs ActiveJobs in the tests of live titles: told by lines on standard input, it says lines on standard output.
# Inside Puma it is live.ru, told by requests.
require "active_job"
require "logger"

$stdout.sync = true
ActiveJob::Base.logger = Logger.new($stdout, level: :warn)
ActiveJob::Base.queue_adapter = ActiveJob::QueueAdapters::AsyncAdapter.new(min_threads: 5, max_threads: 5)

require File.expand_path("../../contrib/active_job_live_title", __dir__)

module Told
  RELEASED = Queue.new

  def self.say(words)
    puts "said: #{words}"
  end

  def self.title
    File.binread("/proc/self/cmdline").sub(/\0+\z/n, "").tr("\0", " ")
  end
end

class Holding < ActiveJob::Base
  def perform
    Told::RELEASED.pop
    Told.say("done")
  end
end

class Raising < ActiveJob::Base
  def perform
    Told::RELEASED.pop
    raise "as it was told"
  end
end

class Quick < ActiveJob::Base
  def perform
    Told.say("quick: #{Told.title}")
  end
end

# Performs another job within itself.
class Nesting < ActiveJob::Base
  def perform
    Quick.perform_now
    Told::RELEASED.pop
  end
end

# Its child performs a job, and takes a title.
class Forking < ActiveJob::Base
  def perform
    child = fork do
      Quick.perform_now
      $0 = "a child's own title"
      Told.say("child: #{Told.title}")
      exit!
    end
    Process.wait(child)
    Told::RELEASED.pop
  end
end

# In a process that no job forked, as a server's workers are.
def fork_worker
  child = fork do
    $0 = "worker"
    Quick.perform_now
    Told.say("worker: #{Told.title}")
    exit!
  end
  Process.wait(child)
end

# The child leaves the job that it was forked in as its parent does.
def fork_within
  child = nil
  Busyweight::ActiveJobLiveTitle.new.call do
    child = fork
    Process.wait(child) if child
  end
  return if child

  Told.say("after: #{Told.title}")
  exit!
end

def obey(word, rest = nil)
  case word
  when "perform" then Object.const_get(rest).perform_later
  when "release" then Told::RELEASED << :now
  when "threads" then Busyweight::ActiveJobLiveTitle.threads = Integer(rest)
  when "ask-threads" then Busyweight::ActiveJobLiveTitle.threads = -> { Integer(rest) }
  when "title" then $0 = rest
  when "setproctitle" then Process.setproctitle(rest)
  when "program" then Told.say("program: #{$0}")
  when "fork" then fork_worker
  when "fork-within" then fork_within
  when "no-titles"
    Process.define_singleton_method(:setproctitle) { |_| raise NotImplementedError.new("no titles here"), cause: nil }
  end
end
