# frozen_string_literal: true

# Appends the number of running jobs to the process title whenever an ActiveJob starts or ends:
#
#   puma 6.4.2 (tcp://0.0.0.0:3000) [shop] | busyweight [2 of 5 busy]
# For Solid Queue, GoodJob, Delayed Job and Sidekiq inside Puma, whose titles do not show it; the agent reads it with
# `preset = "busyweight"`. For MRI; README.md in this directory describes how to use it.
# A process gets the suffix with its first job, so supervisors, masters and consoles never do. The title is not
# replaced, and $0 does not change, because Puma needs it to restart.
# It must never raise into a job, write in a process that a job forked, or contact any other process.
require "logger"
return if defined?(Busyweight::ActiveJobLiveTitle) # loaded already

module Busyweight
  # One instance handles one job; it also serves as a server middleware for Sidekiq.
  class ActiveJobLiveTitle
    WORDS = / \| busyweight \[[^\]]*\]/n
    COUNTED_BY_ITSELF = /\Asidekiq \d/n
    TITLE_MAX = 4096
    # A Timeout, which may hit a job at any moment, must neither make us miss that the job ended nor be taken for an
    # error of this file.
    LATER = {Object => :never}.freeze

    def call(*)
      Thread.handle_interrupt(LATER) { self.class.begins(self) }
      yield
    ensure
      Thread.handle_interrupt(LATER) { self.class.ended(self) }
    end

    @lock = Mutex.new
    @jobs = {}.compare_by_identity

    class << self
      # How many jobs this process can run at once: a number, or a callable that returns one. By default it is the
      # highest number so far.
      attr_writer :threads

      def install(base)
        base.around_perform { |_job, perform| ActiveJobLiveTitle.new.call(&perform) }
      end

      def begins(job)
        # If a job runs another one within itself, even in a process that it forked, its thread counts as busy once.
        safely do
          unless @jobs.value?(Thread.current)
            take_over unless @pid == Process.pid
            @total = (@threads.respond_to?(:call) ? @threads.call : @threads).to_i
            @jobs[job] = Thread.current
            @most = [@most, @jobs.size].max
            write
          end
        end
      end

      def ended(job)
        safely { write if @pid == Process.pid && @jobs.delete(job) }
      end

      private

      # The program has set its own title.
      def assigned
        safely { write if @pid == Process.pid }
      end

      def safely(&block)
        @lock.synchronize { switch_off_at_failure(&block) unless @off }
      rescue StandardError, ScriptError => e
        complain("no live titles: #{e.class}: #{e.message}")
      end

      # Under the lock, so that no other thread logs the same error again.
      def switch_off_at_failure
        yield
      rescue StandardError, ScriptError
        @off = true
        raise
      end

      # The first job of a process; counts from before its fork are not its own.
      def take_over
        trace_var(:$0) { Thread.handle_interrupt(LATER) { assigned } } if @pid.nil?
        @pid = Process.pid
        @most = 0
        @jobs.clear
        @title = @own = nil
        @file&.close
        @file = File.open("/proc/self/cmdline", "rb")
      end

      def write
        now = current
        @own = now.gsub(WORDS, "") unless unchanged?(now)
        return if @own.empty? || COUNTED_BY_ITSELF.match?(@own)

        title = "#{@own} | busyweight [#{@jobs.size} of #{[@total, @most].max} busy]"
        Process.setproctitle(@title = title) unless title == now
      end

      def unchanged?(now)
        return false unless @title && !now.empty? && @title.start_with?(now)

        if now != @title && !@cut
          @cut = true
          complain("the title has room for #{now.bytesize} bytes only, and busyweight cannot read it")
        end
        true
      end

      # Not $0, which Process.setproctitle, as Puma uses it, does not change. Arguments that were never a title
      # contain NULs, which ps shows as blanks.
      def current
        @file.pread(TITLE_MAX, 0).split("\0").reject(&:empty?).join(" ")
      end

      def complain(words)
        (defined?(ActiveJob::Base) && ActiveJob::Base.logger || Logger.new($stderr)).warn("busyweight: #{words}")
      rescue StandardError, ScriptError => e
        warn("busyweight: #{words} (#{e.message})")
      end
    end
  end
end

# Without ActiveJob it may still be Sidekiq's middleware.
ActiveSupport.on_load(:active_job) { Busyweight::ActiveJobLiveTitle.install(self) } if defined?(ActiveSupport.on_load)
