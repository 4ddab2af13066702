# Sidekiq inside another program, from 7.0 on, with contrib/active_job_live_title.rb as its middleware and the jobs of
# live.rb, which says what they are told by.
$stdout.sync = true
require_relative "live"
require_relative "../../contrib/active_job_live_title"

Busyweight::ActiveJobLiveTitle.threads = -> { Sidekiq.default_configuration.total_concurrency }

sidekiq = Sidekiq.configure_embed do |config|
  config.queues = [NAME]
  config.concurrency = 3
  config.server_middleware { |chain| chain.add(Busyweight::ActiveJobLiveTitle) }
end
sidekiq.run
sleep
