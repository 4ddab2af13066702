# See active_jobs.rb: GET /WORD/REST obeys.
require_relative "active_jobs"

run lambda { |env|
  obey(*env["PATH_INFO"].delete_prefix("/").split("/", 2))
  [200, {"content-type" => "text/plain"}, ["obeyed"]]
}
