# The jobs of the end-to-end tests: each runs until it is told to end, so that a test decides
# exactly how many threads of a worker are busy.
#
# Everything is told through lists in Redis, one token for one job, never by time:
#   release:QUEUE   one token ends one job
#   fork:QUEUE      one token lets one Forking job fork its child
#   forked:QUEUE    receives the child's pid
require "sidekiq"

module Token
  def self.take(list)
    Sidekiq.redis do |redis|
      if redis.respond_to?(:blocking_call) # from Sidekiq 7 on
        redis.blocking_call(false, "BLPOP", list, 0)
      else
        redis.blpop(list, timeout: 0)
      end
    end
  end
end

class Holding
  include Sidekiq::Worker
  sidekiq_options retry: false

  def perform(queue)
    Token.take("release:#{queue}")
  end
end

# Forks only when told, so that the test can wait until the parent's title shows the job: the
# child keeps the title of that moment.
class Forking
  include Sidekiq::Worker
  sidekiq_options retry: false

  def perform(queue)
    Token.take("fork:#{queue}")
    reader, writer = IO.pipe
    child = fork do
      writer.close
      reader.read # until the parent closes its end, by will or by dying: no orphan stays
      exit! # no at_exit handlers: they belong to the parent
    end
    reader.close
    Sidekiq.redis { |redis| redis.rpush("forked:#{queue}", child) }
    Token.take("release:#{queue}")
    writer.close
    Process.wait(child)
  end
end
