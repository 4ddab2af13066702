# Work at the pace of a core of the host, which is a fraction (CORE) of a real one: a millisecond of CPU at a time, and no
# more of them than such a core could do. Who gets less, because others work on the host as well, is late, and stays so.
module Pace
  CORE = Float(ENV.fetch("CORE"))
  SLICE_S = 0.001

  # Burns so many seconds of such a core. After each slice the block is told how many are done, and says whether to stop.
  # What the process does beside it, to sleep and to wake up say, is part of the work; so is what it took before
  # (`taken_s`, of CPU).
  def self.burn(core_seconds, taken_s = 0)
    wanted_s = core_seconds * CORE
    before_s = cpu - taken_s
    at = now
    done_s = 0
    while done_s < wanted_s
      slice_end_s = [done_s + SLICE_S, wanted_s].min
      last_s = done_s
      nil while (done_s = cpu - before_s) < slice_end_s
      at = wait_until(at + (done_s - last_s) / CORE)
      return if block_given? && yield(done_s / CORE)
    end
  end

  # Its time, or now where that is past.
  def self.wait_until(time)
    pause_s = time - now
    return now if pause_s <= 0

    sleep(pause_s)
    time
  end

  # Of all threads of the process.
  def self.cpu
    Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID)
  end

  def self.now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
