-- needs common
-- nothing → the server's clock
return pack(now)
