# frozen_string_literal: true

# Sidekiq's process title, rewritten whenever a job begins or ends instead of at the heartbeat alone (every 5 s up to
# Sidekiq 6, every 10 s from 7.0). For Sidekiq 6.0 and newer on MRI; README.md beside this file says how to use it.
#
# The title is the one that Sidekiq itself wrote last, with another number in its bracket, so tag, version, the sum over
# capsules and whatever an application adds are Sidekiq's own. Sidekiq's heartbeat counts otherwise: for it a job lasts a
# little longer, until its retries and statistics are done. So that its count cannot stay in the title until the next
# heartbeat, Ruby calls us after every assignment to $0 (Kernel#trace_var), and the number is put right at once.
#
# It must never raise into a job, write in a process that a job forked, or ask anybody else for anything.
require "sidekiq"
return if defined?(Busyweight::SidekiqLiveTitle) # loaded already

module Busyweight
  # One instance is one job's passage through the server middleware.
  class SidekiqLiveTitle
    TITLE = /\A(?<head>sidekiq \d.*\[)\d+ of (?<total>\d+)(?<busy> busy\])(?<stopping> stopping(?= |\z))?(?<rest>.*)\z/mn
    # A Timeout or Sidekiq's own Shutdown, which may strike a job at any moment, must neither make us forget that it
    # ended nor be taken for a fault of ours.
    LATER = {Object => :never}.freeze

    def call(*)
      Thread.handle_interrupt(LATER) { self.class.begins(self) }
      yield
    ensure
      Thread.handle_interrupt(LATER) { self.class.ended(self) }
    end

    class << self
      def install(config)
        config.on(:startup) { start(config) }
        %i[quiet shutdown].each { |event| config.on(event) { update { @stopping = true } } }
      end

      def begins(job)
        # Where a job performs another within itself, its thread is busy once.
        update { @jobs[job] = Thread.current unless @jobs.value?(Thread.current) }
      end

      def ended(job)
        update { @jobs.delete(job) }
      end

      private

      # Every process of a swarm starts on its own, after its fork.
      def start(config)
        # Outermost, and last of all: in 7.0 and newer each capsule may have got a chain of its own by now.
        capsules = config.respond_to?(:capsules) ? config.capsules.values : []
        [config, *capsules].each { |one| one.server_middleware { |chain| chain.prepend(self) } }
        @jobs = {}.compare_by_identity
        @lock = Mutex.new
        @stopping = false
        @title = nil
        @pid = Process.pid
        trace_var(:$0) { |title| Thread.handle_interrupt(LATER) { assigned(title) } }
      rescue StandardError, ScriptError => e
        give_up(e)
      end

      # Sidekiq, in all likelihood, wrote a title.
      def assigned(title)
        update do
          if (parts = TITLE.match(title.b))
            @parts = parts
            @stopping ||= !parts[:stopping].nil?
            @title = title.b
          end
        end
      end

      # A process that a job forked has another pid, and keeps the title that it was born with.
      def update
        return unless @pid == Process.pid

        @lock.synchronize do
          yield
          write if @title
        end
      rescue StandardError, ScriptError => e
        give_up(e)
      end

      def write
        busy = [@jobs.size, @parts[:total].to_i].min
        stopping = " stopping" if @stopping
        title = "#{@parts[:head]}#{busy} of #{@parts[:total]}#{@parts[:busy]}#{stopping}#{@parts[:rest]}"
        # Not $0: what Sidekiq assigned stays there, and nobody is called again.
        Process.setproctitle(@title = title) unless title == @title
      end

      # From now on the title is the heartbeat's alone, as without this file.
      def give_up(error)
        @pid = nil
        Sidekiq.logger.warn("busyweight: no live titles: #{error.class}: #{error.message}")
      rescue StandardError, ScriptError => e
        warn("busyweight: no live titles: #{e.message}")
      end
    end
  end
end

Sidekiq.configure_server { |config| Busyweight::SidekiqLiveTitle.install(config) }
