-- needs common
-- nothing → the server's clock
return struct_pack('>d', now)
