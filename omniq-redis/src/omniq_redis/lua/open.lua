-- → the version of the layout of these keys, which this one becomes where there is none
call('SET', prefix .. 'version', args[1], 'NX')
return call('GET', prefix .. 'version')
