# frozen_string_literal: true

# Rewrites Sidekiq's process title whenever a job starts or ends, not only at the heartbeat (every 5 s up to Sidekiq
# 6, every 10 s from 7.0). For Sidekiq 6.0 and newer on MRI; README.md in this directory describes how to use it.
# The title is Sidekiq's last one with another number in its bracket, so tag, version, the sum over capsules and
# whatever an application adds come from Sidekiq. Sidekiq's heartbeat counts differently: for Sidekiq a job lasts a
# little longer, until its retries and statistics are done. So that this count does not stay in the title until the
# next heartbeat, Ruby calls us after every assignment to $0 (Kernel#trace_var), and the number is corrected at once.
# It must never raise into a job, write in a process that a job forked, or contact any other process.
require "sidekiq"
return if defined?(Busyweight::SidekiqLiveTitle) # loaded already

module Busyweight
  # One instance handles one job in the server middleware.
  class SidekiqLiveTitle
    TITLE = /\A(?<head>sidekiq \d.*\[)\d+ of (?<total>\d+)(?<busy> busy\])(?<stopping> stopping(?= |\z))?(?<rest>.*)\z/mn
    # A Timeout or Sidekiq's own Shutdown, which may hit a job at any moment, must neither make us miss that the job
    # ended nor be taken for an error of this file.
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
        # If a job runs another one within itself, its thread counts as busy once.
        update { @jobs[job] = Thread.current unless @jobs.value?(Thread.current) }
      end

      def ended(job)
        update { @jobs.delete(job) }
      end

      private

      # Every process of a swarm starts separately, after its fork.
      def start(config)
        # Outermost, and after everything else: in 7.0 and newer each capsule may have its own chain by now.
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

      # Most likely Sidekiq wrote a title.
      def assigned(title)
        update do
          if (parts = TITLE.match(title.b))
            @parts = parts
            @stopping ||= !parts[:stopping].nil?
            @title = title.b
          end
        end
      end

      # A process that a job forked has another pid, and keeps the title it started with.
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
        # Not $0: it keeps what Sidekiq assigned, and no trace is triggered.
        Process.setproctitle(@title = title) unless title == @title
      end

      # From now on only the heartbeat writes the title, as without this file.
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
