-- needs common
-- → the version of the layout of these keys, which this one becomes where there is none. Only that is written, so that
-- who may only read can look.
local version = call('GET', prefix .. 'version')
if version then return version end
even_if_full()
call('SET', prefix .. 'version', args[1])
return tostring(args[1])
