"""What a caption model is asked and what its answers are worth."""
